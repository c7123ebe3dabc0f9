//! Money: the router's books against those of the providers that bill it.

mod bank;
mod books;
mod houses;
mod place;
mod shock;
mod shop;
mod support_bot;
