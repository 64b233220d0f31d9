"""Workers on other machines: they dial the server and speak one stream until it ends."""
