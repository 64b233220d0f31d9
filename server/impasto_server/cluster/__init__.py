"""Workers on other hosts: what starts and ends them there, and how many there should be."""
