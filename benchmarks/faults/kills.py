def kills(*_): raise SystemExit('todo')
