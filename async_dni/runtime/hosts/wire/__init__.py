"""What goes between two hosts: bytes, in channels, of which links and conversations are made."""
