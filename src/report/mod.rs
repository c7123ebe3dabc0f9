//! Reports in Markdown, HTML and JSON.
