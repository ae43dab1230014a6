"""The dispatcher as an asyncio event loop."""
