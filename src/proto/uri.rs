//! Request targets: one canonical path, made once (design.md §4).
