"""The embedded stack behind `secateur up`: every server a child process tied to one supervisor's life."""
