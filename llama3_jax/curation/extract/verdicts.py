"""What a block's tag, class, id and role say about it: content, comments, or boilerplate. Tables of words, no more.

The words are those of themes, content systems and forums in English, German, French, Spanish, Portuguese and Italian.
A verdict is only a hint: `choice.py` overrules one that would throw away most of a page.
"""

import functools
import re
from typing import NamedTuple

from llama3_jax.curation.extract.config import REMEMBERED

NEUTRAL, JUNK, COMMENTS, CONTENT, BODY, HEADER = range(6)
"""BODY is the text of an article itself, CONTENT something around it, HEADER the top of the page or of an article."""


class Verdict(NamedTuple):
    """What one tag says."""

    kind: int
    discussion: bool = False  # the page is one where what people answer is the content
    code: bool = False  # it may hold program text outside of `<pre>`


_JUNK_TAGS = frozenset(
    "nav footer aside button select input option fieldset legend template dialog menu object embed applet audio "
    "video canvas map iframe noframes noscript script style svg datalist progress meter frameset rustdoc-toolbar "
    "rustdoc-search clipboard-copy".split()
)
_OF_NAMES = {"article": CONTENT, "main": CONTENT, "header": HEADER, "form": JUNK}  # unless a class says more
# A class on one of these is about the paragraph, not about what holds the article.
_LEAVES = frozenset("p li dt dd h1 h2 h3 h4 h5 h6 ul ol tr figure figcaption hr br summary".split())
_JUNK_WORDS = frozenset(
    # Finding one's way
    "nav navi navbar navbars navigation navigations subnav topnav sitenav navlinks mainnav navblock "
    "navbox navframe menu "
    "menus submenu mainmenu topmenu menubar dropdown breadcrumb breadcrumbs breadcrump crumb crumbs brotkrumen ariane "
    "migas pagination paginator pager paging paginate pagenavi postnav sitemap toc tableofcontents skiplink skiplinks "
    "jumplinks catlinks printfooter editsection jumpto hatnote hideme quicklinks linkliste linklist blogroll "
    "navegacion navegacao navigazione indice sommaire inhaltsverzeichnis "
    # Around the page
    "footer foot footers fuss fusszeile bottombar sidebar sidebars sidebox sideblock sidecol seitenleiste rightcol "
    "rightbar leftbar lateral masthead topbar toolbar tools toolbox header-nav siteinfo sitefooter "
    "siteheader colophon impressum "
    "imprint copyright copyrights disclaimer legal credits powered widget widgets wdgt portlet "
    # Others' and one's own advertisement
    "ad ads adv advert adverts advertise advertising advertisement advertisements advertorial adbox adsense adslot "
    "adblock adcontainer adwrapper adunit banner banners anzeige anzeigen werbung reklame sponsor sponsored sponsors "
    "promo promos promotion promoted promobox publicite publicidad publicidade pubblicita taboola outbrain plista "
    "affiliate teads dfp gpt commercial "
    "newsletter newsletters subscribe subscription subscribed signup optin mailchimp abo abonnieren abonnement paywall "
    "cta callout-subscribe donate donation spenden "
    # Sharing and following
    "social socials socialmedia socialbar socialbuttons share shares sharing sharebar sharebox sharebuttons sharedaddy "
    "sharethis addthis addtoany shariff teilen partager compartir compartilhar condividi bookmark "
    "bookmarks bookmarking "
    "follow followus facebook twitter tweetbutton pinterest linkedin whatsapp googleplus plusone flattr likebox "
    "likes wpulike sociable ssba heateor feedback rss feed "
    # More to read
    "related relateds relatedposts relatedarticles recommended recommend recommendation recommendations recommends "
    "similar verwandt verwandte aehnliche relacionados relacionadas relacionado relacionada correlati "
    "articoli-correlati "
    "mehrzumthema weiterlesen lesetipps readmore morelink moreposts popular popularposts mostread mostpopular "
    "meistgelesen trending trends latestnews recentposts recent latest neueste ultimas prevnext previousnext "
    "crosslinks crosspromo yarpp zemanta jp-relatedposts archive archives archiv archivos calendar kalender "
    # About the text, not of it
    "postmeta entrymeta metadata postmetadata meta byline bylines postinfo postdate dateline timestamp "
    "published pubdate tags taglist tagcloud tagcloud tagged posttags keywords schlagworte schlagwort etiquetas "
    "etiquettes categories postcategory kategorien rubriken authorbox authorbio authorinfo aboutauthor autorenbox "
    "autorinfo rating ratings starrating vote votes voting postvote pollbox avatar avatars gravatar userinfo "
    "userprofile profile postprofile username postername "
    # Controls and layers
    "search searchform searchbox searchbar suche recherche buscar busca ricerca login signin loginbox register "
    "registration anmelden anmeldung cookie cookies cookiebar cookienotice cookiebanner consent gdpr dsgvo cmp "
    "usercentrics borlabs didomi onetrust privacynotice modal popup popups overlay lightbox tooltip tooltips offcanvas "
    "hidden invisible noprint noprint print printonly druck drucken skip skiptocontent backtotop totop languages "
    "langswitcher languageswitcher interlanguage printpdf button buttons btn btns spinner loading loader "
    "slideshow carousel "
    "noexcerpt nomobile mw-editsection catnav".split()
)
_JUNK_TOKENS = frozenset("signature sig author autor auteur autore info".split())  # as a whole class or id only
_JUNK_PAIRS = frozenset(
    "post meta|entry meta|entry utility|post footer|entry footer|author box|author bio|author info|about author|"
    "about the|post tags|tag links|tags links|cat links|post categories|read more|more link|more posts|more articles|"
    "more stories|more news|also like|you may|may like|top bar|side bar|right col|left col|right column|left column|"
    "screen reader|sr only|visually hidden|back top|to top|posted on|posted in|prev next|previous next|post nav|"
    "like box|site header|page top|most read|most viewed|top stories|post share|post info|article info|"
    "article meta|article tools|article footer|story tools|story meta|story footer|post date|post author|"
    "entry date|post views|cookie law|skip to|jump to|site info|site branding|site title|site description|blog info|"
    "header top|hide print|no print|user info|mod list|next prev|read next|next article|next post|prev post|"
    "see more|view more|load more|wp polls|wpcf7 form|gform wrapper|mc embed|mc4wp form|jp relatedposts|"
    "edit link|page actions|page tools|last updated|version selector|language list|lang list|mw portlet|mw head|"
    "mw panel|vector menu|p lang|view count|social links|latest posts|recent posts|recent comments|article date|"
    "message user|message name|user avatar|td a rec|post actions|post menu|post controls|post notice|"
    "reputation score|user details|user action|js menu|"
    "crayon toolbar|code toolbar|highlight tools|gallery nav|slider nav|theme switch".split("|")
)
_COMMENT_WORDS = frozenset(
    "comment comments commentlist commentarea commentform commentblock commentsection commentwrapper commentlink "
    "respond reply replies disqus livefyre kommentar kommentare leserkommentare kommentarbereich leserbriefe "
    "trackback trackbacks pingback pingbacks pings comentario comentarios commentaire commentaires commento commenti "
    "guestbook usercomments fbcomments fbcomment wpdiscuz hyvor giscus utterances isso coral "
    "forenbeitraege postings".split()
)
_BODY_WORDS = frozenset(
    "articlebody articletext articlecontent entrycontent postcontent storybody storytext storycontent "
    "newsbody newstext "
    "blogcontent postbody postentry bodytext bodycopy articlecopy bodycontent prose cooked entrybody "
    "textcontent articlefulltext fulltext msgbody messagecontent messagebody artikeltext artikelinhalt artikelbody "
    "beitragstext newstext meldungstext usertext bbwrapper".split()
)
_BODY_PAIRS = frozenset(
    "mw parser|parser output|markdown body|doc markdown|rich text|message body|post message|body text|"
    "text body|body copy|"
    "body markup|available content|js post|topic body|main text|md content|td post|blog content|single content|"
    "content inner|content text|page content|richtext content|rst content|document content|node content|field body|"
    "name body|entry text|full text|news detail|detail text|recipe description|product description|postbody content|"
    "sphinx body|content area text|content article|content post|text content|content body|body content|"
    "cuerpo noticia|corpo noticia|corps article|texte article|contenu article|inhalt artikel|description body".split(
        "|"
    )
)
_PIECES = frozenset(
    "article post entry story news blog single artikel beitrag articulo articolo artigo noticia nota noticias meldung "
    "bericht nachricht page message msg comment answer question issue doc document".split()
)
_INSIDES = frozenset(
    "content body text inhalt texte texto testo contenu contenido conteudo contenuto corps cuerpo corpo copy fulltext "
    "bodytext paragraphs".split()
)
_CONTENT_WORDS = frozenset(
    "content main maincontent contents inhalt hauptinhalt contenu contenido conteudo contenuto principal primary "
    "maincol maincolumn post hentry article artikel beitrag story blogpost blogentry entry single noticia articulo "
    "articolo artigo newsitem hfeed mainbody".split()
)
_HEADER_WORDS = frozenset("header masthead kopf kopfzeile kopfbereich cabecera entete testata cabecalho".split())
_DISCUSSION_WORDS = frozenset(
    "phpbb nsphpbb vbulletin postbody bbpress bbp discourse topic-body bbwrapper xenforo answercell qapage "
    "question-page viewtopic showthread section-viewtopic fluxbb mybb punbb timeline-comment "
    "js-discussion cooked postbit "
    "usertext fatitem commentarea message-userContent p-body-content threadview forumthread forum-post "
    "forum-topic".split()
)
_IGNORED = re.compile(
    r"^(?:elementor-(?!widget-(?:nav|share|social|posts|search)|location-footer|nav|share)|tag-|category-|cat-|type-|"
    r"status-|format-|js-|col-|et_pb_(?:row|column|section|text|module)|vc_|fl-(?:row|col|module)|has-|no-|with-|"
    r"without-|not-|is-|hide-|show-|postid-|hidden-(?:xs|sm|md|lg|print|phone|mobile|tablet)|page-id|comments?-(?:open|closed|status)|wpb_|kl-|theme-(?!doc)|"
    r"(?:post|node|article|entry|comment)-\d|sidebar-(?:none|no)|widget_?text$|textwidget$|widget-text$|mw-page-container|"
    r"vector-body|(?:\w+-)?(?:no|has|with|without)-)",
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_ATTRIBUTE = re.compile(
    r' (class|id|role|itemprop|style|aria-hidden|hidden|itemtype|property|data-line-number)="([^"]*)"'
)
_ROLES = {
    "navigation": JUNK, "banner": JUNK, "contentinfo": JUNK, "search": JUNK, "complementary": JUNK, "dialog": JUNK,
    "alertdialog": JUNK, "menu": JUNK, "menubar": JUNK, "toolbar": JUNK, "tooltip": JUNK, "button": JUNK,
    "doc-toc": JUNK, "main": CONTENT, "article": CONTENT,
}  # fmt: skip
_PROPERTIES = {"articlebody": BODY, "content:encoded": BODY, "comment": COMMENTS, "breadcrumb": JUNK, "text": BODY}
_UNSEEN_STYLE = re.compile(r"display:\s*none|visibility:\s*hidden")
_CODE_STYLE = re.compile(r"white-space:\s?pre|monospace|Courier")
_CODE_TOKEN = re.compile(
    r"blob-|linenos?$|lineno|lntable|rouge-|syntaxhighlighter|highlighttable|crayon-|hljs-ln|linenums|linenumbers|"
    r"line-num|lines-(?:num|code)|linenr|react-code|CodeMirror|ace_|gutter|dp-highlighter|.*geshi|cm-line|cm-content|"
    r"code-?line|view-lines?$|file-code|"
    r"(?:code|snippet|source|listing|blob)(?:[-_]?(?:block|snippet|box|area|listing|view|table|text|wrapper|example|code))?$"
)
_MOST_TOKENS = 40  # classes of one tag that are looked at
_LONGEST_ID = 30  # characters of one that means something
_ANCHORED = frozenset("h1 h2 h3 h4 h5 h6 dt dd p tr th summary details code".split())
_LONGEST_TOKEN = 60  # characters of one that means something


# One look-up a word: the sets above as bits.
_IS_JUNK, _IS_BODY, _IS_PIECE, _IS_INSIDE, _IS_COMMENTS, _IS_HEADER, _IS_CONTENT = (1 << bit for bit in range(7))
_SETS = (
    (_IS_JUNK, _JUNK_WORDS), (_IS_BODY, _BODY_WORDS), (_IS_PIECE, _PIECES), (_IS_INSIDE, _INSIDES),
    (_IS_COMMENTS, _COMMENT_WORDS), (_IS_HEADER, _HEADER_WORDS), (_IS_CONTENT, _CONTENT_WORDS),
    (_IS_JUNK, _JUNK_PAIRS), (_IS_BODY, _BODY_PAIRS),
)  # fmt: skip


def _bits() -> dict[str, int]:
    bits: dict[str, int] = {}
    for bit, words in _SETS:
        for word in words:
            bits[word] = bits.get(word, 0) | bit
    return bits


_BITS = _bits()


def verdict_on(tag: str) -> Verdict:
    """The verdict on one opening tag, given without its angle brackets and as the parser writes it."""
    name, _, rest = tag.partition(" ")
    if name in _JUNK_TAGS:
        return _OF_JUNK
    if not rest:
        return _PLAIN[_OF_NAMES.get(name, NEUTRAL)]
    if ' id="' in tag:  # an id that names a place, not a role, makes each tag different
        before, _, after = tag.partition(' id="')
        value, _, after = after.partition('"')
        if not value.isascii() or "." in value or len(value) > _LONGEST_ID or name in _ANCHORED:
            tag = before + after
    return _of_attributes(name, tag)


@functools.lru_cache(REMEMBERED)
def _of_attributes(name: str, tag: str) -> Verdict:
    found = [_PLAIN[_OF_NAMES.get(name, NEUTRAL)]]
    for attribute, value in _ATTRIBUTE.findall(tag):
        if attribute == "class" or attribute == "id":
            found += [_of_token(token) for token in value.split()[:_MOST_TOKENS]]
        else:
            found.append(_of_attribute(attribute, value))
    kinds, discussions, codes = zip(*found, strict=True)
    strongest = NEUTRAL if name in _WHOLE_PAGE else next(kind for kind in _BY_STRENGTH if kind in kinds)
    if name in _LEAVES and strongest in (BODY, CONTENT):
        strongest = NEUTRAL
    return Verdict(strongest, any(discussions), any(codes))


_BY_STRENGTH = (BODY, JUNK, COMMENTS, CONTENT, HEADER, NEUTRAL)
_PLAIN = [Verdict(kind) for kind in sorted(_BY_STRENGTH)]
_OF_JUNK = _PLAIN[JUNK]
_WHOLE_PAGE = ("body", "html")


def _of_attribute(attribute: str, value: str) -> Verdict:
    """The verdict on an attribute that is not a class or id."""
    if attribute in ("itemprop", "property"):
        return _PLAIN[_PROPERTIES.get(value.lower(), NEUTRAL)]
    if attribute == "itemtype":
        return Verdict(NEUTRAL, discussion="QAPage" in value or "DiscussionForum" in value)
    if attribute == "role":
        return _PLAIN[_ROLES.get(value, NEUTRAL)]
    if attribute == "style":
        return Verdict(JUNK if _UNSEEN_STYLE.search(value) else NEUTRAL, code=_CODE_STYLE.search(value) is not None)
    if attribute == "data-line-number":
        return Verdict(NEUTRAL, code=True)
    return _PLAIN[JUNK if attribute == "hidden" or value == "true" else NEUTRAL]  # the last is aria-hidden


@functools.lru_cache(REMEMBERED)
def _of_token(token: str) -> Verdict:
    """The verdict on one class or id."""
    if len(token) > _LONGEST_TOKEN or "." in token:
        return _PLAIN[NEUTRAL]
    words = [word.lower() for word in _WORDS.findall(token)]
    bits = 0
    for word in words:
        bits |= _BITS.get(word, 0)
    for first, second in zip(words, words[1:], strict=False):
        bits |= _BITS.get(f"{first} {second}", 0)
    if token.lower() in _JUNK_TOKENS:
        bits |= _IS_JUNK
    kind = _of_bits(bits, len(words)) if bits and not _IGNORED.match(token) else NEUTRAL
    code, discussion = _CODE_TOKEN.match(token) is not None, token.lower() in _DISCUSSION_WORDS
    return Verdict(kind, discussion, code) if code or discussion else _PLAIN[kind]


def _of_bits(bits: int, num_words: int) -> int:
    if bits & _IS_JUNK:
        return JUNK
    if bits & _IS_BODY or (bits & _IS_PIECE and bits & _IS_INSIDE and not bits & _IS_COMMENTS):
        return BODY
    if bits & _IS_COMMENTS:
        return COMMENTS
    if bits & _IS_HEADER and not bits & _IS_PIECE:
        return HEADER
    if bits & _IS_CONTENT and num_words <= 3:
        return CONTENT
    return NEUTRAL
