//! The command line end to end: the binary is run as a user or a script would run it.

mod adapters;
mod arrays;
mod bench;
mod browser;
mod choices;
mod contract;
mod extract;
mod finite;
mod formats;
mod generate;
mod help;
mod inputs;
mod kinds;
mod late_interaction;
mod page;
mod quantized;
mod routes;
mod serve;
mod sparse;
mod status;
mod support;
