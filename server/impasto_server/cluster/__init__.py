"""Workers on other machines: launchers start them there; they dial the server and speak one stream until it ends."""
