//! Nested virtualization.

pub mod nested_svm;
pub mod nested_svm_checks;
pub mod nested_svm_events;
pub mod nested_svm_exits;
pub mod nested_svm_intercepts;
pub mod nested_svm_interrupts;
pub mod nested_svm_paging;
pub mod nested_svm_permissions;
pub mod nested_svm_state;
pub mod nested_vmx;
pub mod nested_vmx_checks;
pub mod nested_vmx_msr_lists;
