"""What an attacker can do and learn, tried on simulated sites."""
