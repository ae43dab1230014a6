"""Plain functions behind a framework, run as threadlets: a Starlette application, and a WSGI one."""
