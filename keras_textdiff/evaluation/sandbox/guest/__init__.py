"""What runs inside the program's process. Nothing here decides anything."""
