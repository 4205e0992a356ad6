//! placeholder
pub mod capture;
pub mod ports;
