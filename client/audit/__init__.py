"""Audits of what a device trains. Needs the extra ``train``."""
