"""One file -> its frames' facts, and where their bytes are. The door to pydicom."""
