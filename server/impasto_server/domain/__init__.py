"""Jobs, events, pictures and errors as frozen dataclasses."""
