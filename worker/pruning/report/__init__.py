"""What a job says about itself: records, warnings, figures."""
