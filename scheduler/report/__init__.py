"""What people see: the card, plots, the HTML report, timelines, engine flags."""
