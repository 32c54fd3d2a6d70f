"""The text benchmark: five actions ahead in ScienceWorld and ALFWorld."""
