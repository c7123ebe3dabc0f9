//! Money: the router's books against those of the providers that bill it.

mod bad_input;
mod bank;
mod books;
mod crash;
mod houses;
mod pacing;
mod place;
mod shock;
mod shop;
mod support_bot;
mod surfaces;
