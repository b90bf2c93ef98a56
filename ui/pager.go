package ui

import (
	"fmt"
	"net/url"
	"strconv"
)

// PageSizes are the numbers of rows that a person can choose from.
var PageSizes = []int{10, 25, 50, 100}

// Pager is the line below a table: "1-10 of 30", "page 1 of 3", "10 per page".
type Pager struct {
	From, To, Total int64
	Page, Pages     int64
	Size            int
	First, Previous string // addresses, empty on the first page
	Next, Last      string // addresses, empty on the last page
	Sizes           []Chip
}

// NewPager computes the pager of a list at path, whose other query values are kept in the links. A page beyond the end
// counts as the last.
func NewPager(path string, query url.Values, page, size int, total int64) Pager {
	if size <= 0 {
		size = PageSizes[0]
	}
	pages := max((total+int64(size)-1)/int64(size), 1)
	at := min(max(int64(page), 1), pages)
	p := Pager{Page: at, Pages: pages, Size: size, Total: total}
	if total > 0 {
		p.From = (at-1)*int64(size) + 1
		p.To = min(at*int64(size), total)
	}
	link := func(page int64, size int) string {
		q := url.Values{}
		for key, values := range query {
			q[key] = values
		}
		q.Set("page", strconv.FormatInt(page, 10))
		q.Set("size", strconv.Itoa(size))
		return path + "?" + q.Encode()
	}
	if at > 1 {
		p.First, p.Previous = link(1, size), link(at-1, size)
	}
	if at < pages {
		p.Next, p.Last = link(at+1, size), link(pages, size)
	}
	for _, n := range PageSizes {
		p.Sizes = append(p.Sizes, Chip{Text: strconv.Itoa(n), URL: link(1, n), Current: n == size})
	}
	return p
}

// Range reads "1-10 of 30".
func (p Pager) Range() string { return fmt.Sprintf("%d\u2013%d of %d", p.From, p.To, p.Total) }
