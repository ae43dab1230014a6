"""Files that tasks open, read, write, copy and walk without blocking the loop.

I/O is done by syslets (`threadlets._syslets`); calls for which there is no atom are threadlets.
"""
