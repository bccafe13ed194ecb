"""From recorded engine steps to a profile that tells host and GPU apart."""
