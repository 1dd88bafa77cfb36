def full_disks(*_): raise SystemExit('todo')
