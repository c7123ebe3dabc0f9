//! The one owner of mutable learning.
