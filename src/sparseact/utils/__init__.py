"""What every part uses: files, checksums, what a measurement ran on."""
