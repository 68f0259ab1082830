"""The shell: processes, channels, storage. It moves bytes and keeps promises about disk; the rules live elsewhere."""
