//! Hard filters: which arms can take a request at all, and why the others cannot.
