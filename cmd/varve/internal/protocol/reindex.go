package protocol

import "varve/objstore"

// Reindex asks to rebuild the index. With Wait the events end when it is rebuilt, otherwise at once.
type Reindex struct {
	Wait bool `json:"wait"`
}

// ReindexEvent is a line of the response.
type ReindexEvent = Event[objstore.ReindexInfo, Reindexed]

// Reindexed is the result of a Reindex.
type Reindexed struct {
	Complete bool    `json:"complete"` // the index is rebuilt; false: it is rebuilt in the background
	Segments int     `json:"segments"` // in the store
	Seconds  float64 `json:"seconds"`  // that the request took
}
