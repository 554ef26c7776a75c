"""What the process needs: deadlines, signals, threads, scratch folders, compiled functions, arguments."""
