"""What a training run needs and how fast it can be, before any device is paid for."""
