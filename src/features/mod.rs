//! From a request to a context: content, text views, categories.
