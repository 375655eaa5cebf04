"""Plain torch functions as machine code with exact derivatives; names live in the modules."""
