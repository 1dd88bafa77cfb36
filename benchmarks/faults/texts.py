def texts(*_): raise SystemExit('todo')
