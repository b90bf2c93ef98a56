// Forms whose one part is drawn by the server while they are edited: the rules of a policy.
import { fetchPage, replacePart } from './page.js'

export function partialForms (enhance) {
  for (const form of document.querySelectorAll('form[data-partial]')) {
    const id = form.dataset.partial
    const send = async edit => {
      const data = new URLSearchParams(new FormData(form))
      data.set('edit', edit)
      const { page, answer } = await fetchPage(form.action, { method: 'POST', body: data })
      const fresh = answer.ok && replacePart(document.getElementById(id), page)
      if (!fresh) { location.reload(); return }
      enhance(fresh)
      if (edit.startsWith('add-')) [...fresh.querySelectorAll('.condition input')].at(-1)?.focus()
    }
    form.addEventListener('submit', event => {
      if (event.submitter?.name !== 'edit') return
      event.preventDefault()
      send(event.submitter.value)
    })
    form.addEventListener('change', event => {
      if (event.target.matches('[data-refresh], .rule-head select')) send('refresh')
    })
  }
}
