"""The row store: a teacher's answer is paid for once."""
