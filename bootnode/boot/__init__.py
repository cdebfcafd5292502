"""Boot policy: who is asking, what it should get, and how far it has come. Pure."""
