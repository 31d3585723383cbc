package protocol

// Event is a line of the response to a long request: progress, or at the end how it came out.
type Event[Progress, Done any] struct {
	Progress *Progress `json:"progress,omitempty"`
	Done     *Done     `json:"done,omitempty"`
	Error    *Error    `json:"error,omitempty"`
}
