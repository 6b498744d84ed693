"""An evaluation is a map over units of its input and a merge; engines run the map."""
