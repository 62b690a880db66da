//! pickle
