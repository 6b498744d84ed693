"""What the doctor checks: each function takes the patient and returns what it found."""
