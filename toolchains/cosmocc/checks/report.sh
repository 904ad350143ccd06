# For the checks: what was found, and what was not as expected. A check ends with `conclude`.
wrong=0

found() { # what, value
    printf '%s: %s\n' "$1" "$2" | tee -a "$report"
}
unexpected() { # what was not as expected, and what that means
    wrong=$((wrong + 1))
    printf 'cosmocc check %s: not as expected: %s\n' "$check" "$1" >&2
}
conclude() {
    if [ "$wrong" != 0 ]; then
        printf 'cosmocc check %s: %s of its expectations failed; docs/cosmo.md says what each is for\n' "$check" "$wrong" >&2
        exit 1
    fi
    found "$check" 'as expected'
}
