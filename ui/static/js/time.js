// Keeps "12 minutes ago" true while a page stays open.
const day = 24 * 3600
const units = [[3600, 'hour'], [60, 'minute'], [1, 'second']]

export function relativeTimes (root) {
  if (root !== document) return
  setInterval(() => {
    for (const time of document.querySelectorAll('time[title]')) {
      const age = Math.floor((Date.now() - Date.parse(time.dateTime)) / 1000)
      if (!time.textContent.endsWith(' ago') && time.textContent !== 'just now') continue
      if (age >= day) { time.textContent = time.title; continue }
      const unit = units.find(([seconds]) => age >= seconds)
      if (!unit) continue
      const n = Math.floor(age / unit[0])
      time.textContent = `${n} ${unit[1]}${n === 1 ? '' : 's'} ago`
    }
  }, 15_000)
}
