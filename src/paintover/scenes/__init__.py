"""The built-in world: stamps and places composed into scenes, and edits of them whose true result is rendered."""
