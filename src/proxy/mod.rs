//! Floor 4: a request's life.
