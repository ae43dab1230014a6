"""A small ASGI site without a framework: pages, JSON from SQLite, events, a chat, a blocking report.

Start it with ``threadlets serve examples.site.app:app`` and open http://127.0.0.1:8000.
"""
