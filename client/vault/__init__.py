"""The vault: everything personal on a device, encrypted, and the only place where it is kept."""
