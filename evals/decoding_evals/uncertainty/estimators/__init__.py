"""What says how sure a model is of an answer, by what each estimate is made of."""
