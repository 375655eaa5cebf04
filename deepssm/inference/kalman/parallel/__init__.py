"""The exact filter as scans and convolutions, torch code for any device."""
