//! Every route over HTTP without a socket, with tiny models: each answer's numbers are the library's to the last bit,
//! and each bad request gets its error in its protocol's form and leaves the server well.

mod answers;
mod documents;
mod errors;
mod limits;
mod recorded;
mod support;
