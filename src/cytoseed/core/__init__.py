"""The method of the paper as torch modules and functions: tensors in, tensors out."""
