# SPDX-License-Identifier: Apache-2.0
"""What people type. Thin: everything here is a call into the packages below and a way to print what they return."""
