"""What a setting is made of: penalties, temperatures, cuts, and what they remember."""
